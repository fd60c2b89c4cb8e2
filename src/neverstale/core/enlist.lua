-- Put an entry into the SET of a tag, and let the SET outlive the entry.
-- KEYS[1] the SET. One key alone: while a slot moves, Redis refuses scripts that name several (TRYAGAIN).
-- ARGV[1] the entry's key
-- ARGV[2] TTL in milliseconds: at least so much, never shortened
-- Returns 1.
-- Invariant: no SET without a TTL; a short-lived entry never shortens what a longer one needs.
if redis.call('TYPE', KEYS[1]).ok ~= 'set' then redis.call('UNLINK', KEYS[1]) end
redis.call('SADD', KEYS[1], ARGV[1])
local ttl = tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
