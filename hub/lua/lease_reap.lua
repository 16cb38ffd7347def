-- Remove some entries of a claimed lease; how many. When fewer than asked for were left, the lease is done.
local lease, limit, claim = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- What another lease has taken over is not among them any more.
local members = redis.call('SPOP', index(lease), limit)
for _, member in ipairs(members) do
    local client, channel = string.match(member, '^(%S+) (.*)$')
    remove(channel, client)
end
if #members == limit then
    redis.call('ZADD', lapsed, 'XX', now() + claim, lease)
elseif redis.call('ZREM', lapsed, lease) == 1 then
    -- Kept for a while: a worker that comes back has to know that its leaves were announced.
    redis.call('ZADD', reaped, now(), lease)
end
return #members
