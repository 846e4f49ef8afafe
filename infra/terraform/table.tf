# The online store, in the form that limaml/online/dynamodb_table.py reads and writes; `limaml release init` makes the same.

resource "aws_dynamodb_table" "embeddings" {
  name                        = var.table_name != "" ? var.table_name : "${var.name}-embeddings"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "place"
  range_key                   = "kind"
  deletion_protection_enabled = var.protect

  attribute {
    name = "place"
    type = "S"
  }

  attribute {
    name = "kind"
    type = "S"
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = var.table_backups
  }

  # Without a key of your own DynamoDB encrypts with one that AWS owns.
  dynamic "server_side_encryption" {
    for_each = var.kms_key_arn != "" ? [var.kms_key_arn] : []

    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }
}
