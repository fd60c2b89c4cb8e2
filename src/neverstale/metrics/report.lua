-- Add what one process has counted since its last report to what all have.
-- KEYS: totals, the span of the series, hot keys and hot tags of the minute, live processes, their last reports
-- ARGV: the process, the number of its report, its span, its minute, 1 if it goes now,
--       then how many figures, hot keys and hot tags there are, then the name and the amount of each of them
-- Returns {1 or 0, seconds of this server's clock}. With 0 nothing was done: the keys of the series and of the minute are
-- not those of now, by the one clock that counts. A report that arrives twice counts once. Every key gets its TTL here.
-- There are never figures of more than PREFIXES prefixes, whoever reports: the totals know the first ones, by a field
-- `named:<prefix>` for each, and how many they are by `named`. What is counted under later ones is counted under OTHERS.
local SPAN, MINUTE, TOTALS_TTL, SERIES_TTL, HOT_TTL, LIVE, GONE, MOST = 10, 60, 86400, 2400, 2400, 10, 60, 500
local PREFIXES, OTHERS = 50, '(others)'
local now = tonumber(redis.call('TIME')[1])
if math.floor(now / SPAN) ~= tonumber(ARGV[3]) or math.floor(now / MINUTE) ~= tonumber(ARGV[4]) then
  return {0, now}
end
-- By pcall: a field that somebody else has written to is left as it is. An error would end this half way, and what was
-- added until then would be added again with the next try.
local known = {[OTHERS] = OTHERS}
local function shown(field)
  local name, prefix = string.match(field, '^([^:]*:)(.*)$')
  if not known[prefix] then
    known[prefix] = prefix
    if redis.pcall('HGET', KEYS[1], 'named:' .. prefix) ~= '1' then
      local named = tonumber(redis.pcall('HGET', KEYS[1], 'named')) or 0
      if named < PREFIXES then
        redis.pcall('HSET', KEYS[1], 'named:' .. prefix, 1, 'named', named + 1)
      else
        known[prefix] = OTHERS
      end
    end
  end
  return known[prefix] == prefix and field or name .. OTHERS
end
local at = 9
if redis.call('HGET', KEYS[6], ARGV[1]) ~= ARGV[2] then
  for _ = 1, tonumber(ARGV[6]) do
    local field = shown(ARGV[at])
    redis.pcall('HINCRBY', KEYS[1], field, ARGV[at + 1])
    redis.pcall('HINCRBY', KEYS[2], field, ARGV[at + 1])
    at = at + 2
  end
  for kind = 1, 2 do
    local key, count = KEYS[2 + kind], tonumber(ARGV[6 + kind])
    for _ = 1, count do
      redis.pcall('ZINCRBY', key, ARGV[at + 1], ARGV[at])
      at = at + 2
    end
    if count > 0 then
      redis.call('ZREMRANGEBYRANK', key, 0, -MOST - 1)
      redis.call('EXPIRE', key, HOT_TTL)
    end
  end
  redis.call('HSET', KEYS[6], ARGV[1], ARGV[2])
end
-- One that goes is not counted any more, and stays known for a while: its last report may arrive twice, too.
redis.call('ZADD', KEYS[5], ARGV[5] == '1' and now - LIVE - 1 or now, ARGV[1])
for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now - GONE)) do
  redis.call('ZREM', KEYS[5], process)
  redis.call('HDEL', KEYS[6], process)
end
redis.call('EXPIRE', KEYS[1], TOTALS_TTL)
redis.call('EXPIRE', KEYS[2], SERIES_TTL)
redis.call('EXPIRE', KEYS[5], GONE)
redis.call('EXPIRE', KEYS[6], GONE)
return {1, now}
