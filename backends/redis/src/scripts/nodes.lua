-- Shared by the scripts of the node registry. Times are milliseconds by the server's clock.
-- KEYS index, meta (epoch and revision of the registry); ARGV kind, an epoch for a registry that has none, then what each
-- script lists. The record of a node is beside the index, in the same slot.

local INDEX, META = KEYS[1], KEYS[2]
local SORTED = ARGV[1] == 'sorted_set'

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

local function key(id) return INDEX .. ':' .. id end

-- Asks for something of a record; nil where that is of another type. What else is refused ends the script.
local function ask(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
  error(reply.err, 0)
end

-- The record of a node; nil where there is none, or something else.
local function read(id)
  local r = ask('HMGET', key(id), 'incarnation', 'load', 'told', 'started', 'timeout', 'until')
  local till = SORTED and redis.call('ZSCORE', INDEX, id)
  if not r or not r[1] or #r[1] ~= 36 or string.find(r[1], '[^%x-]') then return nil end
  if not SORTED then till = r[6] end
  till = tonumber(till or '')
  if not till then return nil end
  local function number(i) return tonumber(r[i] or '') or 0 end
  return {
    incarnation = r[1], load = number(2), told = number(3), started = number(4), timeout = number(5), till = till,
  }
end

-- Another incarnation is in the way: what it says of itself is for the caller to judge.
local function conflict(id, there, most)
  local fits = redis.call('HSTRLEN', key(id), 'node') <= most
  return { 2, there.incarnation, fits and redis.call('HGET', key(id), 'node') or '', math.max(there.till - NOW, 0) }
end

-- Until when a node is there without another heartbeat.
local function keep(id, till, expiry)
  if SORTED then
    redis.call('ZADD', INDEX, till, id)
  else
    redis.call('HSET', key(id), 'until', till)
    redis.call('EXPIRE', key(id), expiry)
    redis.call('SADD', INDEX, id)
  end
end

-- The epoch is another when the registry was lost; the revision tells whether a change was missed.
local function state()
  local m = redis.call('HMGET', META, 'epoch', 'revision')
  return m[1] or '', tonumber(m[2] or '') or 0
end

-- Something changed. Who is not told by a message sees it by the revision.
local function change(what)
  local epoch, revision = state()
  if epoch == '' then epoch, revision = ARGV[2], 0 end
  revision = revision + 1
  redis.call('HSET', META, 'epoch', epoch, 'revision', revision)
  if what then redis.call('PUBLISH', INDEX, epoch .. ' ' .. revision .. ' ' .. what) end
end

local function announce_node(id, incarnation, started, load, node)
  change('is ' .. id .. ' ' .. incarnation .. ' ' .. started .. ' ' .. NOW .. ' ' .. load .. ' ' .. node)
end

-- Takes a node out; also what is none, or a node whose record is gone: nobody knows its incarnation any more.
local function remove(id, there)
  redis.call(SORTED and 'ZREM' or 'SREM', INDEX, id)
  if there then redis.call('DEL', key(id)) end
  change(there and 'left ' .. id .. ' ' .. there.incarnation)
end

-- A node of which there is a record says that it is there; others are told when something changed that matters.
local function beat(there, id, node, load, timeout, expiry, step)
  local changed = redis.call('HGET', key(id), 'node') ~= node
  local told = changed or math.abs(load - there.told) >= step
  local set = {}
  local function put(field, value) set[#set + 1] = field; set[#set + 1] = value end
  if changed then put('node', node) end
  if load ~= there.load then put('load', load) end
  if timeout ~= there.timeout then put('timeout', timeout) end
  if told and load ~= there.told then put('told', load) end
  if #set > 0 then redis.call('HSET', key(id), unpack(set)) end
  keep(id, NOW + timeout, expiry)
  if told then announce_node(id, there.incarnation, there.started, load, node) end
end

