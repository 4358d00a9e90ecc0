-- ARGV .., the most bytes of what a node says of itself.
-- Returns epoch, revision, now, then for each node: id, incarnation, started, last seen, until, load, what it says of
-- itself; or, for what is none, id and what is wrong with it.
local epoch, revision = state()
if epoch == '' then
  -- From now on it is the same registry: whoever watches can count its changes.
  epoch = ARGV[2]
  redis.call('HSET', META, 'epoch', epoch, 'revision', revision)
end
local list = { epoch, revision, NOW }
for _, id in ipairs(redis.call(SORTED and 'ZRANGE' or 'SMEMBERS', INDEX, unpack(SORTED and { 0, -1 } or {}))) do
  local entry
  local size = #id <= 128 and ask('HSTRLEN', key(id), 'node')
  if #id > 128 then
    entry = { string.sub(id, 1, 128), 'the id is too long' }
  elseif not size then
    entry = { id, 'its record is of another type' }
  elseif size > tonumber(ARGV[3]) then
    entry = { id, 'its record is too large' }
  else
    local there = read(id)
    if there then
      -- As text: a number that is none of ours may not be an integer.
      entry = { id, there.incarnation, tostring(there.started), tostring(there.till - there.timeout), tostring(there.till),
        tostring(there.load), redis.call('HGET', key(id), 'node') }
    elseif SORTED or size > 0 then
      -- With keys, what is not there may just have expired.
      entry = { id, 'it has no record that can be read' }
    end
  end
  list[#list + 1] = entry
end
return list
