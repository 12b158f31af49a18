-- What the ledger's scripts share. Amounts travel as decimal strings and are added by HINCRBY, which is exact to
-- 2^63; Lua's own numbers are exact to 2^53 and only compare amounts of accounts with a limit, which stays below that.
-- ARGV: 1 verb, 2 now, 3 and 4 when the day and the month began.

local now, day_start, month_start = ARGV[2], ARGV[3], ARGV[4]
local KEEP_MS = 86400000

local function text(number)
  return string.format('%.0f', number)
end

local function negated(amount)
  if amount == '0' then return '0' end
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return '-' .. amount
end

local function start_of(period)
  if period == 'day' then return day_start end
  if period == 'month' then return month_start end
  return '0'
end

-- Begin the account's present period if its sums are of an earlier one; open holds go with it.
local function roll(account)
  local is = redis.call('HMGET', account, 'period', 'start')
  local start = start_of(is[1])
  if tonumber(start) > tonumber(is[2]) then
    redis.call('HSET', account, 'start', start, 'posted', '0', 'deposits', '0')
  end
end

local function write(rows, seq, kind, account, row)
  local id = text(redis.call('INCR', seq))
  local sums = redis.call('HMGET', account, 'id', 'posted', 'pending')
  redis.call('XADD', rows, id .. '-0',
    'at_ms', now, 'kind', kind, 'account', sums[1], 'reservation_id', row.rid or '', 'nusd', row.nusd or '0',
    'posted_nusd', sums[2], 'pending_nusd', sums[3], 'until_ms', row.until_ms or '0',
    'reference', row.reference or '', 'detail', row.detail or '')
end
