-- KEYS stream, dead letters, or these and the inbox record; ARGV group, consumer, id, owner, how long the record is kept,
-- then the fields of the dead letter.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if KEYS[3] and release(KEYS[3], ARGV[4], 'd', tonumber(ARGV[5])) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 6))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
