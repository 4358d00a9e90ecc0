-- KEYS stream, then inbox records; ARGV group, then for each record: id of the entry, owner. As `complete`, of many without
-- effects. Returns 1 for each whose claim was held, else 0.
local told, acked = {}, {}
for i = 2, #KEYS do
  local id, owner = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local can = completable(KEYS[i], owner)
  if can == 1 then complete(KEYS[i]) end
  if can > 0 then acked[#acked + 1] = id end
  told[i - 1] = can > 0 and 1 or 0
end
if #acked > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(acked)) end
return told
