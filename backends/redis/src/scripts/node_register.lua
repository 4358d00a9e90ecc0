-- KEYS .., record; ARGV .., id, incarnation, what the node says of itself, load, timeout, expiry, step of the load, the
-- most bytes of what a node says, and an incarnation that is none.
-- Returns { 1 }, or { 2, incarnation, what it says, milliseconds } when another
-- incarnation is live for so long.
local id, incarnation, node = ARGV[3], ARGV[4], ARGV[5]
local load, timeout, expiry, step = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local there = read(id)
if there and there.till > NOW and there.incarnation ~= ARGV[11] then
  if there.incarnation ~= incarnation then return conflict(id, there, tonumber(ARGV[10])) end
  beat(there, id, node, load, timeout, expiry, step)
  return { 1 }
end
local fields = { 'incarnation', incarnation, 'node', node, 'load', load, 'told', load, 'started', NOW, 'timeout', timeout }
if not ask('HSET', KEYS[3], unpack(fields)) then
  -- Something of another type is where the record belongs.
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], unpack(fields))
end
keep(id, NOW + timeout, expiry)
announce_node(id, incarnation, NOW, load, node)
return { 1 }
