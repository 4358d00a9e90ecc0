-- KEYS stream, due; ARGV group, consumer, idle, most, idle of a member that is gone.
-- Takes what any consumer has not touched for as long as its name says, or else `idle`; forgets members that are gone and own nothing; puts the due time
-- again to what is parked and has lost it. Returns the entries, how many were trimmed before, how many are behind, and the shortest
-- silence that a consumer's name says.
local entries, lost = {}, 0
local left = tonumber(ARGV[4])
local pending, shortest = 0, tonumber(ARGV[3])
for _, member in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, owns, idle = member[2], member[4], member[6]
  if name == DUE then
    pending = pending + owns
    if owns > redis.call('ZCARD', KEYS[2]) then
      for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, DUE)) do
        if not redis.call('ZSCORE', KEYS[2], entry[1] .. RAN) then
          redis.call('ZADD', KEYS[2], 'NX', now(), entry[1])
        end
      end
    end
  elseif owns > 0 and left > 0 then
    local ids, silence = {}, string.match(name, '^c%x+%-(%d+)$') or ARGV[3]
    shortest = math.min(shortest, tonumber(silence))
    for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', silence, '-', '+', left, name)) do
      ids[#ids + 1] = entry[1]
    end
    lost = lost + take(KEYS[1], ARGV[1], ARGV[2], silence, ids, entries)
    left = left - #ids
  elseif owns == 0 and name ~= ARGV[2] and idle > tonumber(ARGV[5]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
  end
end
local lag = 0
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local this = {}
  for i = 1, #group, 2 do this[group[i]] = group[i + 1] end
  if this['name'] == ARGV[1] then lag = tonumber(this['lag']) or 0 end
end
return { entries, lost, lag + pending, shortest }
