-- KEYS stream, inbox record; ARGV group, id, owner, then for each effect: how many words, the words.
-- The token of the claim decides, not who owns the entry: a claim that was lost completes nothing.
local can = completable(KEYS[2], ARGV[3])
if can == 0 then return 0 end
if can == 1 then
  local i = 4
  while i <= #ARGV do
    local words = tonumber(ARGV[i])
    redis.call(unpack(ARGV, i + 1, i + words))
    i = i + words + 1
  end
  complete(KEYS[2])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return 1
