-- KEYS stream, due, inbox record; ARGV group, consumer, id, delay, change of its count, whether it ran, owner, how, how
-- long the record is kept.
local count = owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not count then return 0 end
if release(KEYS[3], ARGV[7], ARGV[8], tonumber(ARGV[9])) == 0 then return 0 end
park(KEYS[1], KEYS[2], ARGV[1], ARGV[3], tonumber(ARGV[4]), math.max(count + ARGV[5], 0), ARGV[6] == '1')
return 1
