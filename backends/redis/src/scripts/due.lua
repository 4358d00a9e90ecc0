-- KEYS stream, due; ARGV group, consumer, most.
-- Returns the entries that were due, how many were trimmed before, and when the next is due (-1: none).
local entries, lost = {}, 0
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now(), 'LIMIT', 0, ARGV[3])
if #ids > 0 then
  local parked, ran = {}, {}
  for _, member in ipairs(ids) do
    local id = string.gsub(member, RAN, '')
    if id ~= member then ran[id] = 1 end
    -- What was acked meanwhile is not pending any more.
    if owned(KEYS[1], ARGV[1], DUE, id) then parked[#parked + 1] = id end
  end
  lost = take(KEYS[1], ARGV[1], ARGV[2], 0, parked, entries, ran)
  redis.call('ZREM', KEYS[2], unpack(ids))
end
local next = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = -1
if #next > 0 then wait = math.max(next[2] - now(), 0) end
return { entries, lost, wait }
