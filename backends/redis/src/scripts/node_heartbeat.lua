-- KEYS .., record; ARGV .., id, incarnation, what the node says of itself, load, timeout, expiry, step of the load, the
-- most bytes of what a node says.
-- Returns { 1 }, { 0 } when the node was given up, or { 2, incarnation, what it says, milliseconds } when another
-- incarnation is live for so long.
local id, incarnation, node = ARGV[3], ARGV[4], ARGV[5]
local load, timeout, expiry, step = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local there = read(id)
if not there or there.till <= NOW then return { 0 } end
if there.incarnation ~= incarnation then return conflict(id, there, tonumber(ARGV[10])) end
beat(there, id, node, load, timeout, expiry, step)
return { 1 }
