-- KEYS when members were seen, who was given up, dead letters, the streams; ARGV node, group, the longest absence, then the
-- fields of a record for the dead letters, but the last field's value.
-- Gives a member of an `each_node` group up that stayed away. Returns 1 when it was given up.
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not seen or tonumber(seen) > now() - ARGV[3] then return 0 end
local left, at, members = 0, '0-0', {}
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      local this = {}
      for j = 1, #group, 2 do this[group[j]] = group[j + 1] end
      if this['name'] == ARGV[2] then
        left = left + this['pending'] + (tonumber(this['lag']) or 0)
        if i == 4 then at = this['last-delivered-id'] end
        members[#members + 1] = KEYS[i]
      end
    end
  end
end
local reason = string.gsub(ARGV[#ARGV], '%%at', at)
reason = string.gsub(reason, '%%left', string.format('%.0f', left))
local fields = { unpack(ARGV, 4, #ARGV - 1) }
fields[#fields + 1] = reason
-- Before anything is forgotten.
redis.call('XADD', KEYS[3], '*', unpack(fields))
for _, stream in ipairs(members) do redis.call('XGROUP', 'DESTROY', stream, ARGV[2]) end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
