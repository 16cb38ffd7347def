-- Renew a lease. Returns its state, the milliseconds that it still had, and which run of the server this is.
-- `kept`, even if it was overdue, as long as nobody has claimed it; `lapsed`: others remove its entries, or have;
-- `lost`: the server does not know it, so it has lost its data.
local lease, ttl = ARGV[2], tonumber(ARGV[3])

local expiry = redis.call('ZSCORE', leases, lease)
if expiry then
    redis.call('ZADD', leases, now() + ttl, lease)
    return { 'kept', tonumber(expiry) - now(), server_run() }
end
local known = redis.call('ZSCORE', lapsed, lease) or redis.call('ZSCORE', reaped, lease)
return { known and 'lapsed' or 'lost', 0, server_run() }
