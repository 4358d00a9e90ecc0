-- KEYS stream, due; ARGV group, consumer, then for each entry: id, delay, change of its count,
-- whether it ran.
-- Returns for each whether it was still ours.
local told = {}
for i = 3, #ARGV, 4 do
  local count = owned(KEYS[1], ARGV[1], ARGV[2], ARGV[i])
  if count then
    park(KEYS[1], KEYS[2], ARGV[1], ARGV[i], tonumber(ARGV[i + 1]), math.max(count + ARGV[i + 2], 0), ARGV[i + 3] == '1')
  end
  told[#told + 1] = count and 1 or 0
end
return told
