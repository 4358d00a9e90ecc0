-- KEYS .., record; ARGV .., id, incarnation.
-- Returns 1, 0 when the node was not there, or 2 when another incarnation is live.
local there = read(ARGV[3])
if not there then return 0 end
if there.incarnation ~= ARGV[4] then return there.till > NOW and 2 or 0 end
remove(ARGV[3], there)
return 1
