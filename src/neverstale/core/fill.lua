-- Store a loaded value, if the lease it was loaded under still stands.
-- KEYS[1] the entry
-- ARGV[1] the token of the lease
-- ARGV[2] the new bytes of the entry
-- ARGV[3] its TTL, in milliseconds
-- Returns 1 when stored, 0 when the lease is gone: somebody invalidated, evicted or replaced the entry meanwhile.
-- Invariant: whatever deletes or replaces the key cancels the fill.
local head = redis.pcall('GETRANGE', KEYS[1], 0, 55)
if type(head) == 'table' or #head ~= 56 then return 0 end
if string.sub(head, 1, 2) ~= '\206\1' or string.sub(head, 19, 34) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
