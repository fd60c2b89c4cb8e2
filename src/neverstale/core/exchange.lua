-- Invalidate a tag, and say which stamp it had and which it has.
-- KEYS[1] the stamp
-- ARGV[1] a fresh random id
-- ARGV[2] TTL of the stamp in milliseconds: at least so much, never shortened
-- Returns {before, now}: "" where there was none, or could be none because Redis is out of memory.
-- Invariant: of several that exchange, each is told the stamp of the one before it; so who finds the stamp that its own
-- entry was valid under knows that nobody has invalidated that entry in between.
local time = redis.call('TIME')
local before = redis.pcall('GET', KEYS[1])
if type(before) ~= 'string' then before = '' end
local ttl = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
local now = ARGV[1] .. '@' .. time[1] .. string.format('%06d', time[2])
local set = redis.pcall('SET', KEYS[1], now, 'PX', ttl)
if set.err then
  redis.call('UNLINK', KEYS[1])
  now = ''
end
return { before, now }
