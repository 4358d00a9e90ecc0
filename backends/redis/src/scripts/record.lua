-- KEYS inbox record; ARGV what to do (renew, release, complete), owner, how long the record is kept;
-- renew: lease. release: how. complete: body, type, failed, large, then for each effect: how many words, the words.
local key, owner, keep = KEYS[1], ARGV[2], tonumber(ARGV[3])
if ARGV[1] == 'renew' then return renew(key, owner, tonumber(ARGV[4]), keep) end
if ARGV[1] == 'release' then return release(key, owner, ARGV[4], keep) end
local can, text = completable(key, owner)
if can ~= 1 then return can end
local i = 8
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + words))
  i = i + words + 1
end
local answer = ''
if ARGV[6] ~= '' then answer = table.concat({ '', ARGV[6], ARGV[7], ARGV[5], ARGV[4] }, '\n') end
complete(key, text, answer, keep)
return 1
