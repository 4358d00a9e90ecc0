-- KEYS a sorted set; ARGV who, how long one counts who is not seen (-1: for ever).
-- Notes that somebody is there. Returns how many are.
redis.call('ZADD', KEYS[1], now(), ARGV[1])
if tonumber(ARGV[2]) >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now() - ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
end
return redis.call('ZCARD', KEYS[1])
