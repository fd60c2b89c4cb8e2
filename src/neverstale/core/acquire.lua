-- Place a lease on an entry that is not there, or that is still what the caller saw and could not use.
-- KEYS[1] the entry
-- ARGV[1] mode: "fill" puts a placeholder in the entry's place; "refresh" keeps the value and writes the token into it
-- ARGV[2] the header that the caller saw, or "" for nothing
-- ARGV[3] fill: the placeholder with the new token; refresh: the token
-- ARGV[4] how long the lease lives, in milliseconds
-- Returns "" when granted, else the header of what is there.
-- Invariant: of all who saw the same header exactly one is granted; what nobody saw is never replaced.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 55)
if type(head) == 'table' then head = '' end -- not a string: not ours, and no use to anyone under this name
local ours = #head == 56 and string.sub(head, 1, 2) == '\206\1'

if ARGV[1] == 'fill' then
  if ours and head ~= ARGV[2] then return head end
  if ours and string.sub(head, 3, 3) == 'L' then return head end
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  return ''
end

if not ours or head ~= ARGV[2] or string.sub(head, 3, 3) ~= 'V' then return head end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if string.sub(head, 19, 34) ~= string.rep('\0', 16) and struct.unpack('>I8', head, 35) > now then return head end
redis.call('SETRANGE', KEYS[1], 18, ARGV[3] .. struct.pack('>I8', now + ARGV[4]))
return ''
