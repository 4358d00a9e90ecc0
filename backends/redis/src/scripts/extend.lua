-- KEYS stream, owner of the partition, or these and the inbox record; ARGV group, consumer, id, owner of the claim, lease,
-- how long the record is kept.
-- A bare XCLAIM would steal from who has it now.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if KEYS[3] and renew(KEYS[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])) == 0 then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1
