-- The position of a channel and a part of its stream, as they are at one moment.
--
-- KEYS  stream, meta
-- ARGV  epoch if there is none yet, meta ttl in ms, how many (0 none, -1 all), XRANGE or XREVRANGE and its two ends
-- Returns the offset, the epoch and the entries.
local stream, meta = KEYS[1], KEYS[2]
local fresh_epoch, meta_ttl, limit, range, first, last = unpack(ARGV)

local position = redis.call('HMGET', meta, 's', 'e')
local offset, epoch = position[1] or '0', position[2]
if not epoch then
    -- As in append.lua: entries without a position are nobody's.
    epoch = fresh_epoch
    redis.call('HSET', meta, 'e', epoch)
    redis.call('DEL', stream)
end
redis.call('PEXPIRE', meta, meta_ttl)

local entries = {}
if limit == '-1' then
    entries = redis.call(range, stream, first, last)
elseif limit ~= '0' then
    entries = redis.call(range, stream, first, last, 'COUNT', limit)
end
return {tonumber(offset), epoch, entries}
