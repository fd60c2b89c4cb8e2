-- Read the stamp of a tag, made now if it is missing.
-- KEYS[1] the stamp
-- ARGV[1] a fresh random id, for a stamp that is missing
-- ARGV[2] TTL of the stamp in milliseconds: at least so much, never shortened
-- Returns {stamp, age}: the age in microseconds by this node's clock, or -1 for a stamp made just now.
-- Invariant: a stamp is never replaced here; who reads the same stamp twice knows that nobody invalidated in between.
local time = redis.call('TIME')
local stamp = redis.pcall('GET', KEYS[1])
local set = type(stamp) == 'string' and (string.match(stamp, '^[^@~]*@(%d+)$') or string.match(stamp, '^[^@~]*@(%d+)~'))
if not set then
  stamp = ARGV[1] .. '@' .. time[1] .. string.format('%06d', time[2])
  redis.call('SET', KEYS[1], stamp, 'PX', ARGV[2])
  return { stamp, -1 }
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
-- Microseconds since 1970 fit into a double until the year 2255.
return { stamp, math.max(0, time[1] * 1000000 + time[2] - tonumber(set)) }
