-- Publish and keep, in one step: the order in the stream is the order on pub/sub.
--
-- KEYS  stream, meta, lineage of the server, and with an idempotency key the result
-- ARGV  channel of pub/sub, payload, epoch if there is none yet, size, ttl and meta ttl in ms, ttl of the result in ms;
--       version and its epoch if there is one
-- Returns the offset and the epoch, and a third element if nothing was sent.
--
-- Where another server goes on than the one of the last publication, offsets leap: it may lack what that one had, and
-- so none of its publications is ever taken for a lost one. The first of them says which one it follows (`l`). A server
-- that has never gone on with what others have copies of has no lineage here.
--
-- Redis checks memory, replication and its disk at the first write of a script, so that one has to be a write which
-- needs memory (HSET, HINCRBY): then a publication is refused as a whole or not at all.
local LEAP = 1048576 -- more than a server is ahead of its replicas
local stream, meta, server, result = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, payload, fresh_epoch, size, ttl, meta_ttl, result_ttl, version, version_epoch = unpack(ARGV)

if result then
    local first = redis.call('GET', result)
    if first then
        local offset, epoch = string.match(first, '^(%d+):(.*)$')
        return {tonumber(offset), epoch, 1}
    end
end

local epoch, before, known = unpack(redis.call('HMGET', meta, 'e', 's', 'l'))
if not epoch then
    -- The position is lost (first use, expired, evicted), so what is left of the stream has none.
    epoch = fresh_epoch
    redis.call('HSET', meta, 'e', epoch)
    redis.call('DEL', stream)
end

if version then
    local last = redis.call('HMGET', meta, 'v', 've', 's')
    -- Decimal numbers as strings: a version may have 64 bits, a number of Lua has 53.
    local older = last[1] and (#version < #last[1] or (#version == #last[1] and version <= last[1]))
    if older and (version_epoch == '' or version_epoch == last[2]) then
        return {tonumber(last[3]), epoch, 1}
    end
    redis.call('HSET', meta, 'v', version, 've', version_epoch)
end

local step = 1
local lineage = redis.call('GET', server)
if lineage and lineage ~= known then
    redis.call('HSET', meta, 'l', lineage)
    if before then
        step = LEAP - before % LEAP + 1
        payload = 'l' .. before .. ':' .. payload
    end
end
local number = redis.call('HINCRBY', meta, 's', step)
local offset = string.format('%d', number)
redis.call('PEXPIRE', meta, meta_ttl)
redis.call('XADD', stream, 'MAXLEN', size, offset .. '-0', 'd', payload)
redis.call('PEXPIRE', stream, ttl)
redis.call('PUBLISH', channel, 'p' .. offset .. ':' .. epoch .. ':' .. payload)
if result then
    redis.call('SET', result, offset .. ':' .. epoch, 'PX', result_ttl)
end
return {number, epoch}
