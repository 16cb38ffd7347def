-- Publish without history, once per idempotency key.
--
-- KEYS  result
-- ARGV  channel of pub/sub, payload, ttl of the result in ms
-- Returns the result of the first time if there was one, `<offset>:<epoch>` as append.lua writes it.
local first = redis.call('GET', KEYS[1])
if not first then
    redis.call('SET', KEYS[1], '0:', 'PX', ARGV[3])
    redis.call('PUBLISH', ARGV[1], ARGV[2])
end
return first
