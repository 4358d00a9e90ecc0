-- KEYS stream, that of partition 0; ARGV the most entries without a group, the most entries at all (-1: any), the oldest age (-1: any).
-- Deletes what every group has acked, and what is beyond a bound of the user's.
-- Returns how many were deleted, how many of them not every group had acked, and whether there is a group.
if redis.call('EXISTS', KEYS[1]) == 0 then return { 0, 0, 0 } end
local function groups_of(key)
  local names = {}
  if redis.call('EXISTS', key) == 0 then return names end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    for i = 1, #group, 2 do
      if group[i] == 'name' then names[group[i + 1]] = true end
    end
  end
  return names
end
-- A group whose members have not seen yet that there is this partition needs all of it.
if KEYS[2] ~= KEYS[1] then
  local here = groups_of(KEYS[1])
  for name in pairs(groups_of(KEYS[2])) do
    if not here[name] then redis.call('XGROUP', 'CREATE', KEYS[1], name, '0') end
  end
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
local deleted, lost = 0, 0
if #groups == 0 then
  deleted = redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
else
  local function less(a, b)
    if not b then return true end
    local am, an = string.match(a, '(%d+)-(%d+)')
    local bm, bn = string.match(b, '(%d+)-(%d+)')
    am, an, bm, bn = tonumber(am), tonumber(an), tonumber(bm), tonumber(bn)
    return am < bm or (am == bm and an < bn)
  end
  local lowest
  for _, group in ipairs(groups) do
    local this = {}
    for i = 1, #group, 2 do this[group[i]] = group[i + 1] end
    local at
    if this['pending'] > 0 then
      at = redis.call('XPENDING', KEYS[1], this['name'])[2]
    else
      -- The one behind the last that was delivered.
      local millis, number = string.match(this['last-delivered-id'], '(%d+)-(%d+)')
      at = millis .. '-' .. string.format('%.0f', number + 1)
    end
    if less(at, lowest) then lowest = at end
  end
  deleted = redis.call('XTRIM', KEYS[1], 'MINID', lowest)
end
if tonumber(ARGV[2]) >= 0 then
  lost = lost + redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2])
end
if tonumber(ARGV[3]) >= 0 then
  lost = lost + redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', math.max(now() - ARGV[3], 0)))
end
if #groups == 0 then
  deleted, lost = deleted + lost, 0
end
return { deleted + lost, lost, #groups > 0 and 1 or 0 }
