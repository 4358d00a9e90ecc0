-- ARGV .., timeout of who asks, how old a sweep by somebody else may be (keys).
-- Takes out who was silent for too long. After a time in which nobody looked, nobody was heard perhaps, since the server was
-- away or stood still: then all have one timeout to come back. That is noted for every process, also for one that is new.
-- Returns epoch and revision.
local timeout, every = tonumber(ARGV[3]), tonumber(ARGV[4])
local noted = redis.call('HMGET', META, 'looked', 'hold')
local looked, hold = tonumber(noted[1] or ''), tonumber(noted[2] or '') or 0
if looked and NOW - looked > timeout / 2 then
  hold = NOW + timeout
  redis.call('HSET', META, 'looked', NOW, 'hold', hold)
elseif not looked or looked > NOW or NOW - looked >= timeout / 20 then
  redis.call('HSET', META, 'looked', NOW)
end
-- When the clock was set back.
if hold > NOW + timeout then hold = NOW + timeout end

local function silent_of_sorted_set()
  return redis.call('ZRANGEBYSCORE', INDEX, '-inf', NOW, 'LIMIT', 0, 256)
end

-- Every record is looked at, and therefore by one process for all of them.
local function silent_of_keys()
  local swept = tonumber(redis.call('HGET', META, 'swept') or '') or 0
  if swept <= NOW and NOW - swept < every then return {} end
  redis.call('HSET', META, 'swept', NOW)
  local silent = {}
  for _, id in ipairs(redis.call('SMEMBERS', INDEX)) do
    -- nil is of another type, false is gone.
    local till = ask('HGET', key(id), 'until')
    if till == false or till and (tonumber(till) or 0) <= NOW then silent[#silent + 1] = id end
  end
  return silent
end

if NOW >= hold then
  for _, id in ipairs(SORTED and silent_of_sorted_set() or silent_of_keys()) do
    remove(id, read(id))
  end
end
local epoch, revision = state()
return { epoch, revision }
