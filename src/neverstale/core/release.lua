-- Give a lease back without a value: the load failed, or what it gave may not be stored.
-- KEYS[1] the entry
-- ARGV[1] the token of the lease
-- ARGV[2] for a refresh: how long until the next one may be tried, in milliseconds; 0: the old value goes, too
-- Returns 1 if the lease stood, else 0.
-- Invariant: never touches an entry that the caller does not hold.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 55)
if type(head) == 'table' or #head ~= 56 then return 0 end
if string.sub(head, 1, 2) ~= '\206\1' or string.sub(head, 19, 34) ~= ARGV[1] then return 0 end
if string.sub(head, 3, 3) == 'L' or ARGV[2] == '0' then
  redis.call('UNLINK', KEYS[1])
else
  local time = redis.call('TIME')
  local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
  redis.call('SETRANGE', KEYS[1], 18, string.rep('\0', 16) .. struct.pack('>I8', ends))
end
return 1
