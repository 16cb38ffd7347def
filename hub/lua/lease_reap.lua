-- Remove some entries of a claimed lease; how many. When fewer than asked for were left, the lease is done.
local lease, limit, claim = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- What another lease has taken over is not among them any more.
-- What is not the hub's is passed over, so that no dead worker's entries stay because of it.
local members = redis.pcall('SPOP', index(lease), limit)
for _, member in ipairs(members) do
    local client, channel = string.match(member, '^(%S+) (.*)$')
    if client then
        unless_occupied(remove, channel, client)
    end
end
if #members == limit then
    redis.call('ZADD', lapsed, 'XX', now() + claim, lease)
elseif redis.call('ZREM', lapsed, lease) == 1 then
    -- Kept for a while: a worker that comes back has to know that its leaves were announced.
    redis.call('ZADD', reaped, now(), lease)
end
return #members
