-- KEYS stream, due; ARGV group, consumer, the last entry that was read and arrived, then what was taken otherwise.
-- What did not arrive is given back at once, uncounted; a consumer that owns nothing is removed.
local here = {}
for i = 4, #ARGV do here[ARGV[i]] = true end
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[3], '+', 10000, ARGV[2])) do
  if not here[entry[1]] then
    park(KEYS[1], KEYS[2], ARGV[1], entry[1], 0, math.max(entry[4] - 1, 0), false)
  end
end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 1
