-- KEYS stream; ARGV group, consumer, most, the last entry that arrived.
-- Takes what was read by this consumer and did not arrive: it was not begun, so that this is its first delivery.
local entries, ids = {}, {}
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[4], '+', ARGV[3], ARGV[2])) do
  ids[#ids + 1] = entry[1]
end
if #ids > 0 then
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))) do
    if entry then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry[1], 'RETRYCOUNT', 1, 'JUSTID')
      entries[#entries + 1] = { entry[1], entry[2], 1, 0 }
    end
  end
end
return { entries, #ids - #entries }
