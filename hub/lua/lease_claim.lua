-- Claim a lease whose worker is gone, or one whose claimer is; nil if there is none.
local own, comfort, longest, claim, memory = ARGV[2], unpack(ARGV, 3)

-- One that has ended. Or ends later than any can: the clock has gone back, and whoever lives has renewed it since.
local function over(set)
    local found = redis.call('ZRANGEBYSCORE', set, '-inf', now(), 'LIMIT', 0, 1)
    return found[1] or redis.call('ZRANGEBYSCORE', set, now() + longest, '+inf', 'LIMIT', 0, 1)[1]
end

-- If this worker could not renew for a while, or not since the clock went back, the others could not either: they come
-- first.
local expiry = redis.call('ZSCORE', leases, own)
local left = expiry and expiry - now() or -1
if left < tonumber(comfort) or left > tonumber(longest) then
    return false
end
redis.call('ZREMRANGEBYSCORE', reaped, '-inf', now() - memory)
local lease = over(lapsed)
if not lease then
    lease = over(leases)
    if not lease then
        return false
    end
    -- From here on nothing can be written under it.
    redis.call('ZREM', leases, lease)
end
redis.call('ZADD', lapsed, now() + claim, lease)
return lease
