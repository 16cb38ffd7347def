-- What the presence scripts share: this text stands in front of each of them.
local prefix = ARGV[1]
local leases, lapsed, reaped = prefix .. ':leases', prefix .. ':leases:lapsed', prefix .. ':leases:reaped'

-- Milliseconds by the clock of Redis; those of the workers may differ.
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Changes when the server starts again, or another takes its place; empty if it may not be asked.
local function server_run()
    local info = redis.pcall('INFO', 'server')
    return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end

-- The entries of a lease.
local function index(lease)
    return prefix .. ':lease:' .. lease
end

local function entries(channel)
    return prefix .. ':presence:{' .. channel .. '}'
end

-- An entry is `<lease> <announce> <length of user> <user><info>`. What somebody else has put there is nobody's.
local function parse(value)
    local lease, announce, length, start = string.match(value, '^(%S+) ([01]) (%d+) ()')
    if not lease then
        return '', '0', '', ''
    end
    local rest = start + tonumber(length)
    return lease, announce, string.sub(value, start, rest - 1), string.sub(value, rest)
end

-- Run `change`. Whether it went well, false if a key holds another kind of value; other faults are the script's.
local function unless_occupied(change, ...)
    local done, fault = pcall(change, ...)
    if done then
        return true, fault
    end
    local text = type(fault) == 'table' and fault.err or tostring(fault)
    if not string.find(text, 'WRONGTYPE', 1, true) then
        error(fault, 0)
    end
    return false
end

local function count_user(channel, user, change)
    local users = prefix .. ':users:{' .. channel .. '}'
    if redis.call('HINCRBY', users, user, change) <= 0 then
        redis.call('HDEL', users, user)
    end
end

local function tell(channel, sign, announce, info)
    if announce == '1' then
        redis.call('PUBLISH', prefix .. ':channel:' .. channel, sign .. info)
    end
end

-- Take an entry out and tell of it. Whether it was there.
local function remove(channel, client)
    local value = redis.call('HGET', entries(channel), client)
    if not value then
        return false
    end
    local lease, announce, user, info = parse(value)
    redis.call('HDEL', entries(channel), client)
    redis.call('SREM', index(lease), client .. ' ' .. channel)
    count_user(channel, user, -1)
    tell(channel, '-', announce, info)
    return true
end
