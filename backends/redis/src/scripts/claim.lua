-- KEYS inbox records that are there; ARGV lease, how long a record is kept, then for each: owner, generation.
local told = {}
for i, key in ipairs(KEYS) do
  told[i] = claim(key, ARGV[1 + 2 * i], tonumber(ARGV[1]), tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[2]))
end
return told
