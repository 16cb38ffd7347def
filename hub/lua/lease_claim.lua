-- Claim a lease whose worker is gone, or one whose claimer is; nil if there is none.
local own, comfort, claim, memory = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- If this worker could not renew for a while, the others could not either: they come first.
local expiry = redis.call('ZSCORE', leases, own)
if not expiry or tonumber(expiry) - now() < comfort then
    return false
end
redis.call('ZREMRANGEBYSCORE', reaped, '-inf', now() - memory)
local lease = redis.call('ZRANGEBYSCORE', lapsed, '-inf', now(), 'LIMIT', 0, 1)[1]
if not lease then
    lease = redis.call('ZRANGEBYSCORE', leases, '-inf', now(), 'LIMIT', 0, 1)[1]
    if not lease then
        return false
    end
    -- From here on nothing can be written under it.
    redis.call('ZREM', leases, lease)
end
redis.call('ZADD', lapsed, now() + claim, lease)
return lease
