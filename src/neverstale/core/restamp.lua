-- Invalidate a tag: give it a fresh stamp. Every entry that was loaded under another is invalid from here on; under a
-- soft stamp, those that were valid until now are stale.
-- KEYS[1] the stamp
-- ARGV[1] a fresh random id
-- ARGV[2] TTL of the stamp in milliseconds: at least so much, never shortened
-- ARGV[3] 1 for a soft stamp: the id and time of the one before it follow behind a "~"
-- Returns 1.
-- Invariant: the new stamp was never there before.
local time = redis.call('TIME')
local ttl = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
local stamp = ARGV[1] .. '@' .. time[1] .. string.format('%06d', time[2])
if ARGV[3] == '1' then
  local before = redis.pcall('GET', KEYS[1])
  before = type(before) == 'string' and string.match(before, '^[^@~]+@%d+')
  if before then stamp = stamp .. '~' .. before end
end
local set = redis.pcall('SET', KEYS[1], stamp, 'PX', ttl)
-- Out of memory, Redis refuses to set but not to delete; a stamp that is not there matches nothing either.
if set.err then redis.call('UNLINK', KEYS[1]) end
return 1
