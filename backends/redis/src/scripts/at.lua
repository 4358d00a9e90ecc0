-- KEYS streams; ARGV group.
-- Returns what the group read last of each.
local at = {}
for i, key in ipairs(KEYS) do
  at[i] = '0'
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local this = {}
    for j = 1, #group, 2 do this[group[j]] = group[j + 1] end
    if this['name'] == ARGV[1] then at[i] = this['last-delivered-id'] end
  end
end
return at
