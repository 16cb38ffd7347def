-- Let a history go on under another epoch, unless somebody else has seen to it.
--
-- KEYS  meta
-- ARGV  the epoch that is over, the next one
if redis.call('HGET', KEYS[1], 'e') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'e', ARGV[2])
end
