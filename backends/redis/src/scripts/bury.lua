-- KEYS stream, dead letters, which ids are there, or these and the inbox record; ARGV group, consumer, id of the entry,
-- owner, how long the record is kept, what is there once ('': it may be there again), then the fields of the dead letter.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
-- What fails below leaves all as it was before it: the letter is there before the claim is dead and the entry acked.
if KEYS[4] then
  local this = record(KEYS[4])
  if not this or this.owner ~= ARGV[4] or this.state == 'c' then return 0 end
end
local before = ARGV[6] ~= '' and redis.call('HGET', KEYS[3], ARGV[6])
if not before or #redis.call('XRANGE', KEYS[2], before, before) == 0 then
  local added = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 7))
  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[3], ARGV[6], added)
    redis.call('EXPIRE', KEYS[3], 2592000)
  end
end
if KEYS[4] then release(KEYS[4], ARGV[4], 'd', tonumber(ARGV[5])) end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
