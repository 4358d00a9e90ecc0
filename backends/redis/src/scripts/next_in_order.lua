-- KEYS stream, due, owner; ARGV group, consumer, lease, whether there is a place for an entry.
-- The next entry of a partition, for the one member that owns it: what is pending comes before what is new.
-- Returns { state, wait, entries, trimmed, last id }: state 0 not ours, 1 ours and nothing to do now, 2 an entry.
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then return { 0, -1, {}, 0, '' } end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
local lost = 0
if ARGV[4] == '0' then return { 1, -1, {}, 0, '' } end
while true do
  local first = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1]
  if not first then break end
  local id, owner, idle, entries, ran = first[1], first[2], first[3], {}, {}
  if owner == DUE then
    local score = redis.call('ZSCORE', KEYS[2], id)
    if not score then
      score = redis.call('ZSCORE', KEYS[2], id .. RAN)
      if score then ran[id] = 1 end
    end
    local wait = score and tonumber(score) - now() or 0
    if wait > 0 then return { 1, wait, {}, lost, '' } end
  elseif owner == ARGV[2] and idle < tonumber(ARGV[3]) then
    -- It is out, or its reply got lost and its lease is not over.
    return { 1, tonumber(ARGV[3]) - idle, {}, lost, '' }
  elseif owner ~= ARGV[2] then
    -- Whoever had the partition before may still be at it.
    local silence = tonumber(string.match(owner, '^c%x+%-(%d+)$') or 0)
    if idle < silence then return { 1, silence - idle, {}, lost, '' } end
  end
  lost = lost + take(KEYS[1], ARGV[1], ARGV[2], 0, { id }, entries, ran)
  redis.call('ZREM', KEYS[2], id, id .. RAN)
  if #entries > 0 then return { 2, 0, entries, lost, id } end
end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if read and #read > 0 then
  local entry = read[1][2][1]
  return { 2, 0, { { entry[1], entry[2], 1, 0 } }, lost, entry[1] }
end
local last = '0-0'
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  if group[2] == ARGV[1] then last = group[8] end
end
return { 1, -1, {}, lost, last }
