"""What a Redis server does on its own for the replay store: short scripts, each atomic.

A company's experiences are a hash ``items`` (id: bytes) and a sorted set ``times`` (id: moment).
A script changes both or neither, so that no kill, of client or server, leaves them in
disagreement. All look first whether the keys are what they should be; if another program's data
lies under our name they answer `NOT_OURS` before they have written anything. Redis refuses a
script that would write while memory is full at its *first* write, so it is never left half done.
"""

NOT_OURS = -1
"""A script's answer where a key holds something of another type."""

_OURS = """
local function of_type(key, wanted)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' or kind == wanted
end
if not (of_type(KEYS[1], 'hash') and of_type(KEYS[2], 'zset')) then return -1 end
"""

_DROP = """
local function drop(ids)
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    redis.call('HDEL', KEYS[1], unpack(ids, first, last))
    redis.call('ZREM', KEYS[2], unpack(ids, first, last))
  end
end
"""

PUT = (
    _OURS
    + _DROP
    + """
for i = 2, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
end
local surplus = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[1])
if surplus > 0 then drop(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) end
return redis.call('HLEN', KEYS[1]) == redis.call('ZCARD', KEYS[2]) and 1 or 0
"""
)
"""KEYS items, times; ARGV capacity, then id, moment, bytes of each. 0: hash and set disagree."""

REMOVE = (
    _OURS
    + """
local removed = 0
for _, id in ipairs(ARGV) do
  local gone = redis.call('HDEL', KEYS[1], id)
  if redis.call('ZREM', KEYS[2], id) + gone > 0 then removed = removed + 1 end
end
return removed
"""
)
"""ARGV ids; how many were there."""

SAMPLE = (
    _OURS
    + """
local kept = redis.call('ZCARD', KEYS[2])
if kept == 0 then return {} end
local found = {}
for i, draw in ipairs(ARGV) do
  local rank = math.floor(tonumber(draw) * kept / 4294967296)
  local id = redis.call('ZRANGE', KEYS[2], rank, rank)[1]
  found[2 * i - 1] = id
  found[2 * i] = redis.call('HGET', KEYS[1], id)
end
return found
"""
)
"""ARGV draws; id and bytes (or nil) of each."""

SET_ASIDE = (
    """
local function of_type(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' or kind == 'hash'
end
if not (of_type(KEYS[3]) and of_type(KEYS[4])) then return -1 end
"""
    + _OURS
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[4], ARGV[3], 1)
if redis.call('HLEN', KEYS[3]) < tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
end
return 1
"""
)
"""KEYS items, times, aside, unreadable; ARGV id, bytes, reason, most; 0: changed meanwhile."""

RELINK = (
    _OURS
    + """
for i = 1, #ARGV, 2 do
  local id, at = ARGV[i], ARGV[i + 1]
  local kept = redis.call('HEXISTS', KEYS[1], id) == 1
  local timed = redis.call('ZSCORE', KEYS[2], id)
  if timed and not kept then redis.call('ZREM', KEYS[2], id) end
  if kept and at ~= '' and not timed then redis.call('ZADD', KEYS[2], at, id) end
end
return 1
"""
)
"""ARGV id and moment (empty: not known) of entries that stand in one of both only."""

MOVE_FOREIGN = """
if ARGV[1] == redis.call('TYPE', KEYS[1]).ok or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local number = 1
while redis.call('EXISTS', KEYS[2] .. number) == 1 do number = number + 1 end
redis.call('RENAME', KEYS[1], KEYS[2] .. number)
return number
"""
"""KEYS ours, where foreign keys go (a number is added); ARGV type that ours has. 0: it is ours."""
