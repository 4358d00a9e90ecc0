-- KEYS stream, or stream and inbox record; ARGV group, consumer, id, owner.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
if KEYS[2] then
  local can = completable(KEYS[2], ARGV[4])
  if can == 0 then return 0 end
  if can == 1 then complete(KEYS[2]) end
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
