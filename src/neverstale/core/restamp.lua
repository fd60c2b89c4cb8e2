-- Invalidate a tag: give it a fresh stamp. Every entry that was loaded under another is invalid from here on.
-- KEYS[1] the stamp
-- ARGV[1] a fresh random id
-- ARGV[2] TTL of the stamp in milliseconds: at least so much, never shortened
-- Returns 1.
-- Invariant: the new stamp was never there before.
local time = redis.call('TIME')
local ttl = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
redis.call('SET', KEYS[1], ARGV[1] .. '@' .. time[1] .. string.format('%06d', time[2]), 'PX', ttl)
return 1
