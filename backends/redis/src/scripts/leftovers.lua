-- KEYS stream; ARGV group, consumer, most, the last entry that was read and arrived, then what was taken otherwise.
-- Takes what this consumer read and did not get. Its count stays what it is: this is the delivery that was counted.
local here = {}
for i = 5, #ARGV do here[ARGV[i]] = true end
local entries, ids, counts = {}, {}, {}
local from, most = '(' .. ARGV[4], tonumber(ARGV[3])
while #ids < most do
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', most, ARGV[2])
  for _, entry in ipairs(found) do
    if not here[entry[1]] and #ids < most then
      ids[#ids + 1] = entry[1]
      counts[entry[1]] = entry[4]
    end
    from = '(' .. entry[1]
  end
  if #found < most then break end
end
if #ids > 0 then
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))) do
    if entry then
      local count = math.max(counts[entry[1]], 1)
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry[1], 'RETRYCOUNT', count, 'JUSTID')
      entries[#entries + 1] = { entry[1], entry[2], count, 0 }
    end
  end
end
return { entries, #ids - #entries }
