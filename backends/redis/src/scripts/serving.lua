-- KEYS stream; ARGV group, consumer, how long the stream is kept when nobody renews it.
-- Says that somebody reads requests here: what nobody reads any more is gone, so that callers hear of it at once.
-- Returns whether the stream was there.
local there = redis.call('EXISTS', KEYS[1])
if there == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$', 'MKSTREAM')
end
redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local at = redis.call('XINFO', 'GROUPS', KEYS[1])[1][8]
redis.call('XTRIM', KEYS[1], 'MINID', '~', at)
return { there, now() }
