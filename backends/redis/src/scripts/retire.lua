-- KEYS stream; ARGV group, consumer.
-- Leaves a stream of requests. Returns what nobody will read, when nobody is left.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
if #redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1]) > 0 then return {} end
local left = {}
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 10000, 'NOACK', 'STREAMS', KEYS[1], '>')
if read and #read > 0 then left = read[1][2] end
redis.call('DEL', KEYS[1])
return left
