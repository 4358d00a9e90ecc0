-- KEYS stream, or stream and inbox record; ARGV group, consumer, id, owner, lease, how long the record is kept.
-- A bare XCLAIM would steal from who has it now.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if KEYS[2] and renew(KEYS[2], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])) == 0 then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1
