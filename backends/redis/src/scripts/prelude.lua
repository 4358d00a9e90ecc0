-- Shared by all scripts. Times are milliseconds by the server's clock.

local DUE = '~due'

-- Time stands still while a script runs.
local clock

local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end

-- How often an entry was delivered, if this consumer owns it.
local function owned(stream, group, consumer, id)
  local found = redis.call('XPENDING', stream, group, id, id, 1)
  if #found == 0 or found[1][2] ~= consumer then return nil end
  return found[1][4]
end

-- Puts an entry off. Its delivery count is set: what was not begun is not counted. A mark says that it was begun all the
-- same, in a delivery that is not counted.
local RAN = '!'

local function park(stream, due, group, id, after, count, ran)
  redis.call('ZREM', due, id, id .. RAN)
  redis.call('ZADD', due, now() + after, ran and id .. RAN or id)
  redis.call('XCLAIM', stream, group, DUE, 0, id, 'RETRYCOUNT', count, 'JUSTID')
end

-- Takes entries, and adds { id, fields, count, ran } for each. What was trimmed meanwhile is cleared by the server, and counted.
local function take(stream, group, consumer, idle, ids, into, ran)
  local lost = 0
  if #ids == 0 then return lost end
  local found = redis.call('XCLAIM', stream, group, consumer, idle, unpack(ids))
  local got = {}
  for _, entry in ipairs(found) do
    if entry then
      got[entry[1]] = true
      local pending = redis.call('XPENDING', stream, group, entry[1], entry[1], 1)
      if #pending > 0 then
        into[#into + 1] = { entry[1], entry[2], pending[1][4], ran and ran[entry[1]] or 0 }
      end
    end
  end
  for _, id in ipairs(ids) do
    if not got[id] and #redis.call('XRANGE', stream, id, id) == 0 then
      redis.call('XACK', stream, group, id)
      lost = lost + 1
    end
  end
  return lost
end

-- A record of the inbox, a string: state (r running, i idle, c completed, d dead), owner, how long it is kept, generation,
-- attempts, whether it ran; when it was completed with an answer, a line each for whether that is an error, whether it was
-- too large to be kept, its type, and the answer. The first of an id is written by `claim.rs`. While it is claimed its key
-- lives for the lease and for as long as it is kept: what its time to live is over the latter is what is left of the lease.
local RECORD = '^(%a) (%S*) (%d+) (%d+) (%d+) (%d)'

local function record(key)
  local text = redis.call('GET', key)
  if not text then return nil end
  local state, owner, keep, generation, attempts, ran = string.match(text, RECORD)
  if not state then error('a key of the inbox is no record: ' .. key) end
  local this = {
    text = text, state = state, owner = owner, left = 0,
    generation = tonumber(generation), attempts = tonumber(attempts), ran = ran == '1',
  }
  if state == 'r' then
    this.left = redis.call('PTTL', key) - keep
    if this.left <= 0 then this.state, this.owner, this.ran = 'i', '', true end
  end
  return this
end

local function write(key, this, lease, keep)
  local text = string.format('%s %s %.0f %.0f %.0f %d', this.state, this.owner, keep, this.generation, this.attempts, this.ran and 1 or 0)
  redis.call('SET', key, text, 'PX', keep + lease)
end

local GRANTED, RUNNING, COMPLETED, DEAD = 0, 1, 2, 3

local function claim(key, owner, lease, generation, keep)
  generation = tonumber(generation)
  local this = record(key) or { state = 'i', generation = generation, attempts = 0, ran = false }
  if this.state == 'c' then
    local failed, large, kind, body = string.match(this.text, '\n(%d)\n(%d)\n([^\n]*)\n(.*)$')
    return { COMPLETED, body, kind, failed, large }
  end
  if generation < this.generation and this.state ~= 'd' then return { COMPLETED } end
  if this.state == 'd' and generation <= this.generation then return { DEAD, this.generation } end
  if this.state == 'r' and this.owner ~= owner then return { RUNNING, this.left } end
  if this.state ~= 'r' then
    if generation > this.generation then
      this.generation, this.attempts = generation, 0
    end
    this.attempts = this.attempts + 1
  end
  this.state, this.owner = 'r', owner
  write(key, this, lease, keep)
  return { GRANTED, this.attempts, this.ran and 1 or 0, this.generation }
end

local function renew(key, owner, lease, keep)
  local this = record(key)
  if not this or this.state ~= 'r' or this.owner ~= owner then return 0 end
  write(key, this, lease, keep)
  return 1
end

-- 1 and the record: completed now, 2: by the same owner before, 0: not its own, or no record. Who is late completes as long as
-- nobody has taken over: the token says so, and the lease is not asked. Reads no more of the record than that takes: each
-- message of QoS 2 comes this way.
local function completable(key, owner)
  local text = redis.pcall('GET', key)
  if type(text) ~= 'string' or string.sub(text, 2, #owner + 3) ~= ' ' .. owner .. ' ' then return 0 end
  local state = string.sub(text, 1, 1)
  if state == 'c' then return 2 end
  return state == 'r' and 1 or 0, text
end

-- Kept for as long as the claim said, whose lease is added; or, with an answer, for as long as that is kept.
local function complete(key, text, answer, keep)
  if answer then
    redis.call('SET', key, 'c' .. string.sub(text, 2) .. answer, 'PX', keep)
  else
    redis.call('SETRANGE', key, 0, 'c')
  end
end

-- Gives a claim up: n not begun, s stopped, f failed, d dead.
local function release(key, owner, how, keep)
  local this = record(key)
  if not this or this.owner ~= owner then return 0 end
  if this.state == 'i' or this.state == 'd' then return 1 end
  if this.state ~= 'r' then return 0 end
  if how == 'n' or how == 's' then this.attempts = this.attempts - 1 end
  if how ~= 'n' then this.ran = true end
  this.state = how == 'd' and 'd' or 'i'
  write(key, this, 0, keep)
  return 1
end

