-- Place a lease on an entry.
-- KEYS[1] the entry
-- ARGV[1] mode:
--   "fill"     where nothing is, or still what the caller saw and could not use: a placeholder takes its place
--   "refresh"  on the value that the caller saw, if no lease is alive on it: the token is written into it. After a
--              failed refresh nobody is granted for a while: the token is zeros then, and the lease's end to come.
--              A value that is still served and would be gone before the lease stays as long as this
--   "claim"    whatever is there, for a caller who will set the entry: a value stays until then
-- ARGV[2] the header that the caller saw, or "" for nothing
-- ARGV[3] the placeholder with the new token
-- ARGV[4] how long the lease lives, in milliseconds
-- Returns "" when granted, else the header of what is there; of nothing (to refresh) one zero byte.
-- Invariant: of all who would fill or refresh what they saw, exactly one is granted; who claims takes it from them.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 55)
if type(head) == 'table' then head = '' end -- not a string: not ours, and no use to anyone under this name
local ours = #head == 56 and string.sub(head, 1, 2) == '\206\1'

if ARGV[1] == 'fill' then
  if ours and head ~= ARGV[2] then return head end
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  return ''
end

local value = ours and string.sub(head, 3, 3) == 'V'
if ARGV[1] == 'claim' then
  -- A value that would expire before it is replaced gives way now, or the claim would expire with it.
  if not value or redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
    return ''
  end
elseif not value or head ~= ARGV[2] then
  return ours and head or '\0'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] == 'refresh' and struct.unpack('>I8', head, 35) > now then return head end
-- The lease goes with the value, so a value that is served until a moment to come stays for as long as the lease: else
-- what begins shortly before the end could not be stored, and would be loaded twice. Only until then, or a load that
-- fails again and again would keep it for ever.
if ARGV[1] == 'refresh' and struct.unpack('>I8', redis.call('GETRANGE', KEYS[1], 50, 57)) > now
    and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
redis.call('SETRANGE', KEYS[1], 18, string.sub(ARGV[3], 19, 34) .. struct.pack('>I8', now + ARGV[4]))
return ''
