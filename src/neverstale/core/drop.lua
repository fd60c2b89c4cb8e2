-- Delete entries and leases.
-- KEYS the keys: of one hash slot on a cluster, any on a single node
-- Returns how many of them held a value; a lease that waits for one is deleted too, but not counted.
-- Invariant: afterwards none of the keys is there, so every fill that was in flight for them is cancelled.
local values = 0
for _, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, 2)
  if redis.call('UNLINK', key) == 1 and head ~= '\206\1L' then values = values + 1 end
end
return values
