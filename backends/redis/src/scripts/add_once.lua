-- KEYS stream, mark of the id; ARGV how long an id is known, 1 when the stream is not to be made, then the fields.
-- Adds an entry whose id was not added before. Returns its number, or 0 for a second copy.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local added
if ARGV[2] == '1' then
  added = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(ARGV, 3))
else
  added = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
end
if added then redis.call('SET', KEYS[2], '', 'PX', ARGV[1]) end
return added
