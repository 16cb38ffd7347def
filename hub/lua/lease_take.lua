-- Begin a lease and give up another. Which run of the server this is.
local lease, ttl, old, delay = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])

-- What is left in the old one is removed by whoever looks first after `delay`.
if old ~= '' and redis.call('ZREM', leases, old) == 1 then
    redis.call('ZADD', lapsed, now() + delay, old)
end
-- The last act of a worker only gives up.
if lease ~= '' then
    redis.call('ZADD', leases, now() + ttl, lease)
end
return server_run()
